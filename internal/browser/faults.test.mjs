// What goes wrong while somebody has a dialog open, and is not to lose what was typed.
import test from 'node:test'
import assert from 'node:assert/strict'
import { alert, browser, button, dashboard, heading, link, on, password, pause, person, saved, secretIn, signIn } from './lib.mjs'

const nameIn = (dialog) => dialog.getByRole('textbox', { name: 'Name', exact: true })

async function filled(p, name) {
	await p.page.goto(p.d.url)
	await link(await heading(p, 'API keys'), 'New API key').click()
	const dialog = await on(p, 'New API key')
	await nameIn(dialog).fill(name)
	await dialog.getByRole('checkbox', { name: 'payment:verify' }).check()
	return dialog
}

const there = async (p, name) => {
	await p.page.goto(p.d.url + '?name=' + encodeURIComponent(name))
	await heading(p, 'API keys')
	return p.page.getByRole('link', { name, exact: true }).count()
}

test('the session ends in mid-dialog', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	const dialog = await filled(p, 'Kept')
	await p.context.clearCookies()
	await button(dialog, 'Create key').click()
	assert.match(await alert(dialog), /Sign in/)
	assert.equal(await nameIn(dialog).inputValue(), 'Kept')
	assert.ok(await dialog.getByRole('checkbox', { name: 'payment:verify' }).isChecked())
	const opens = p.context.waitForEvent('page')
	await link(dialog, 'Sign in').click()
	const tab = await opens
	await tab.getByRole('textbox', { name: 'User' }).fill('admin')
	await tab.getByLabel('Password').fill(password)
	await tab.getByRole('button', { name: 'Sign in' }).click()
	await tab.waitForURL((u) => u.pathname !== '/login')
	await tab.close()
	await button(dialog, 'Create key').click()
	const secret = await on(p, 'API key created')
	await d.works(await secretIn(secret))
	await saved(p, secret)
	assert.equal(await there(p, 'Kept'), 1)
})

test('the session ends in mid-form, without scripts', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d, 'admin', { javaScriptEnabled: false })
	const form = await filled(p, 'Kept as well')
	await p.context.clearCookies()
	await button(form, 'Create key').click()
	await heading(p, 'You are signed out')
	const opens = p.context.waitForEvent('page')
	await link(p.page.getByRole('main'), 'Sign in').click()
	const tab = await opens
	await signIn(tab, d, 'admin')
	await button(p.page.getByRole('main'), 'Try again').click()
	await d.works(await secretIn(await on(p, 'API key created')))
	assert.equal(await there(p, 'Kept as well'), 1)
})

test('the session ends before the answer to a confirmation', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'xendit', '-seed', '0')
	for (const options of [{}, { javaScriptEnabled: false }]) {
		const p = await person(t, await browser(), d, 'admin', options)
		await link(await heading(p, 'API keys'), 'New API key').click()
		const name = options.javaScriptEnabled === false ? 'static' : 'scripted'
		let dialog = await on(p, 'New API key')
		await nameIn(dialog).fill(name)
		await dialog.getByRole('radio', { name: 'Write', exact: true }).first().check()
		await button(dialog, 'Create key').click()
		dialog = await on(p, 'Confirm that it is you')
		await dialog.getByLabel('Password', { exact: true }).fill(password)
		await p.context.clearCookies()
		await button(dialog, 'Confirm').click()
		if (p.scripts) assert.match(await alert(dialog), /Sign in/)
		else await heading(p, 'You are signed out')
		assert.ok(!(await p.page.content()).includes(password), 'an answer is kept nowhere')
		await signIn(await p.context.newPage(), d, 'admin')
		if (p.scripts) {
			await button(dialog, 'Confirm').click()
		} else {
			await button(p.page.getByRole('main'), 'Try again').click()
			dialog = await on(p, 'Confirm that it is you') // asked anew
			await dialog.getByLabel('Password', { exact: true }).fill(password)
			await button(dialog, 'Confirm').click()
		}
		const secret = await on(p, 'API key created')
		await d.works(await secretIn(secret))
		await saved(p, secret)
		await p.page.goto(d.url)
		assert.equal(await p.page.getByRole('link', { name, exact: true }).count(), 1)
	}
})

test('another person has signed in meanwhile', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '2')
	const b = await browser()
	for (const options of [{}, { javaScriptEnabled: false }]) {
		const p = await person(t, b, d, 'admin', options)
		await p.page.goto(d.url)
		const before = await p.page.getByRole('rowheader').count()
		// Each changing route that has a form at this moment.
		const dialog = await filled(p, 'In the wrong shop')
		const tab = await p.context.newPage()
		await signIn(tab, d, 'other')
		await button(dialog, 'Create key').click()
		if (p.scripts) {
			assert.match(await alert(dialog), /Somebody else has signed in/)
			assert.equal(await nameIn(dialog).inputValue(), 'In the wrong shop')
		} else {
			await heading(p, 'Somebody else is signed in')
		}
		assert.equal(await there(p, 'In the wrong shop'), 0, 'of the other')
		await signIn(tab, d, 'admin')
		assert.equal(await there(p, 'In the wrong shop'), 0, 'of the one who typed it')

		await p.page.goto(d.url)
		await p.page.getByRole('rowheader').getByRole('link').last().click()
		const name = await p.page.getByRole('heading', { level: 1 }).innerText()
		const main = await heading(p, name)
		await button(main, 'Revoke key').click()
		const revoke = await on(p, 'Revoke key')
		await revoke.getByRole('radio', { name: 'It may have leaked' }).check()
		await signIn(tab, d, 'superadmin') // of the same account
		await button(revoke, 'Revoke').click()
		if (p.scripts) assert.match(await alert(revoke), /Somebody else has signed in/)
		else await heading(p, 'Somebody else is signed in')
		await p.page.goto(d.url)
		assert.equal(await p.page.getByRole('rowheader').count(), before)
		assert.equal(await p.page.getByRole('row').filter({ hasText: name }).getByText('Revoked', { exact: true }).count(), 0)
	}
})

test('the key is changed, suspended or revoked in another tab', { timeout: 90_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const b = await browser()
	for (const options of [{}, { javaScriptEnabled: false }]) {
		const p = await person(t, b, d, 'admin', options)
		const there = { ...p, page: await p.context.newPage() }
		const name = p.scripts ? 'One' : 'Two'
		const made = await filled(p, name)
		await button(made, 'Create key').click()
		const secret = await on(p, 'API key created')
		const token = await secretIn(secret)
		await saved(p, secret)
		const key = p.page.url()
		const elsewhere = async (does) => {
			await there.page.goto(key)
			await does(await heading(there, name))
			await there.page.getByRole('status').filter({ hasText: /\S/ }).first().waitFor()
		}
		const opened = async (what, title = what) => {
			await p.page.goto(key)
			await button(await heading(p, name), what).click()
			return on(p, title)
		}

		// With scripts what was typed stays, beside a link to the key.
		const changedMeanwhile = async (dialog) => {
			if (!p.scripts) { await on(p, 'Changed meanwhile'); return }
			await dialog.getByRole('alert').filter({ hasText: 'Somebody has changed the key' }).waitFor()
			assert.equal(await link(dialog, name).getAttribute('target'), '_blank')
		}

		// Suspended: an edit and a rotation of what was shown are refused, and nothing is done.
		let dialog = await opened('Edit', 'Edit key')
		await nameIn(dialog).fill('Renamed too late')
		await elsewhere((main) => button(main, 'Suspend').click())
		await button(dialog, 'Save').click()
		await changedMeanwhile(dialog)
		if (p.scripts) assert.equal(await nameIn(dialog).inputValue(), 'Renamed too late')
		await elsewhere((main) => button(main, 'Resume').click())
		dialog = await opened('Regenerate key')
		await elsewhere((main) => button(main, 'Suspend').click())
		await button(dialog, 'Save').click()
		await changedMeanwhile(dialog)
		await elsewhere((main) => button(main, 'Resume').click())
		await d.works(token)

		// Revoked: of all dialogs, none does anything, and each says why.
		const dialogs = [['Edit', 'Edit key'], ['Regenerate key'], ['Revoke key']]
		const pages = []
		for (const [what, title] of dialogs) {
			const tab = { ...p, page: await p.context.newPage() }
			await tab.page.goto(key)
			await button(await heading(tab, name), what).click()
			pages.push([tab, await on(tab, title ?? what), title ?? what])
		}
		await p.page.goto(key)
		await button(await heading(p, name), 'Revoke key').click()
		dialog = await on(p, 'Revoke key')
		await dialog.getByRole('radio', { name: 'It may have leaked' }).check()
		await button(dialog, 'Revoke').click()
		await p.page.getByRole('main').getByText('Revoked', { exact: true }).waitFor()
		await d.refused(token)
		for (const [tab, form, title] of pages) {
			if (title === 'Edit key') await nameIn(form).fill('Too late')
			if (title === 'Revoke key') await form.getByRole('radio', { name: 'It is no longer needed' }).check()
			await button(form, title === 'Revoke key' ? 'Revoke' : 'Save').click()
			const said = title === 'Revoke key' ? tab.page.getByRole('status').filter({ hasText: 'The key is revoked' })
				: tab.page.getByRole(p.scripts ? 'dialog' : 'main').getByText(/Changed meanwhile|has changed the key|is revoked/)
			await said.first().waitFor()
			await tab.page.close()
		}
		await p.page.goto(key)
		await heading(p, name)
		await d.refused(token)
	}
})

test('the clipboard is refused', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	const refuse = (how) => p.page.evaluate((how) => {
		Object.defineProperty(navigator, 'clipboard', { configurable: true, value: how === 'missing' ? undefined : { writeText: () => Promise.reject(new DOMException('no', 'NotAllowedError')) } })
		if (how === 'all') document.execCommand = () => false
	}, how)
	const dialog = await filled(p, 'Copied by hand')
	await button(dialog, 'Create key').click()
	const secret = await on(p, 'API key created')
	const token = await secretIn(secret)
	for (const how of ['missing', 'refused']) { // as on plain HTTP, and by a policy
		await p.page.evaluate(() => { window.copies = []; document.addEventListener('copy', () => window.copies.push(document.activeElement.value.slice(document.activeElement.selectionStart, document.activeElement.selectionEnd))) })
		await refuse(how)
		await button(secret, 'Copy secret key').click()
		await secret.getByRole('status').filter({ hasText: 'Copied' }).waitFor()
		assert.equal((await p.page.evaluate(() => window.copies)).at(-1), token, how)
	}
	await refuse('all')
	await button(secret, 'Copy secret key').click()
	await secret.getByRole('status').filter({ hasText: 'press Ctrl+C' }).waitFor()
	assert.equal(await p.page.evaluate(() => { const a = document.activeElement; return a.value?.slice(a.selectionStart, a.selectionEnd) }), token)
	await saved(p, secret)
})

test('page.js does not load, or is of another version', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	await p.page.route('**/page.js', (r) => r.abort())
	const bare = { ...p, scripts: false }
	const form = await filled(bare, 'Bare')
	await button(form, 'Create key').click()
	const screen = await on(bare, 'API key created')
	await d.works(await secretIn(screen))
	await button(screen, 'Done').click()
	await heading(bare, 'Bare')
	for (const b of await p.page.getByRole('button').all()) assert.ok(await b.isVisible())

	// Another version asks: the page is loaded anew, and nothing is half of each.
	await p.page.unroute('**/page.js')
	await p.page.route('**/page.js', async (r) => {
		const answer = await r.fetch()
		await r.fulfill({ response: answer, headers: { ...answer.headers(), 'cache-control': 'no-store' }, body: (await answer.text()).replace(/const version = '[^']*'/, "const version = 'older'") })
	})
	await p.page.goto(d.url)
	await p.page.unroute('**/page.js')
	await p.page.evaluate(() => { window.old = true })
	await link(p.page.getByRole('main'), 'New API key').click()
	await p.page.waitForFunction(() => !window.old && document.readyState === 'complete')
	await link(p.page.getByRole('main'), 'New API key').click()
	await on(p, 'New API key')
})

test('the server is away for a moment', { timeout: 60_000 }, async (t) => {
	const d = await dashboard(t, 'uddoktapay', '-seed', '0')
	const p = await person(t, await browser(), d)
	const dialog = await filled(p, 'Away')
	await p.context.setOffline(true)
	await button(dialog, 'Create key').click()
	assert.match(await alert(dialog), /could not be reached/)
	assert.equal(await nameIn(dialog).inputValue(), 'Away')
	await p.context.setOffline(false)
	await button(dialog, 'Create key').click()
	const secret = await on(p, 'API key created')
	await d.works(await secretIn(secret))
	await pause(100)
	await saved(p, secret)
})
